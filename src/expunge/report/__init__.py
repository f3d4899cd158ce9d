"""What an audit found, for people: one self-contained HTML page (`page`), a table for the terminal and for Markdown (`table`)."""
