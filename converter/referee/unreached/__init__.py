"""What no input reached: tensors that correspond, inputs driven to bounds, changed places looked at alone."""
