"""What `runner new` writes: each file works as it is, with `new_name` and `NewName` for the name that was given."""
