"""What people talk to. Knows only the runtime's token loop."""
