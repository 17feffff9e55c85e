"""Floor 4: config -> plan -> execute -> store, with no going back. Torch is imported only to plan and to execute."""
