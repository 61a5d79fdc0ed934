"""One self-contained HTML file about a run: what was recorded, what is measured, and how it is drawn."""
