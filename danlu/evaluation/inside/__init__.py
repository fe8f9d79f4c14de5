"""What runs inside the sandbox; standard library only, started as files of their own."""
