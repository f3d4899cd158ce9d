"""Small pure tensor functions, each tested by numbers worked out by hand."""
