"""What the models are worth: bits per byte, skills that a program can check, and the lines they are held against."""
