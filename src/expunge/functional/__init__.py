"""Small pure tensor functions, each tested against numbers worked out by hand."""
