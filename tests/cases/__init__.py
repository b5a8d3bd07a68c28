"""Edge cases as data: one row, one model, one expectation. The tests that walk them lie beside this folder."""
