"""The commands as a user sees them: arguments, options and help. They import their work when they run."""
