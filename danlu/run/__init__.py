"""What every stage needs to know of the run it belongs to: recipe, folder, metrics, progress, seeds, device."""
