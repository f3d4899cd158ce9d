"""Results for people: one self-contained HTML page (`page`), and a table for the terminal and for Markdown (`table`)."""
