"""Methods that change the weights in one shot."""
