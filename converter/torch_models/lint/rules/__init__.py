"""The rules of the lint: operator -> what becomes of a shift of its inputs, by kind of operator."""
