"""Small CPU experiments that show the effects of papers: one case per file, with the claims that its numbers must support."""
