"""What people look at: terminal, Markdown."""
