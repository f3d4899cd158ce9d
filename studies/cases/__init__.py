"""Where the effects of papers are shown at CPU size: one file a case, with the claims that its numbers are held against."""
