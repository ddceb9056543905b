"""Jobs on the screen: lines, progress bars, tables and results."""
