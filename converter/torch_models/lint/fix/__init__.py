"""`lint --fix`: the user's source, changed where a module with a dead bias is built."""
