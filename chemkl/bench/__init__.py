"""What this machine does with chemkl: `chemkl bench` measures, side by side with the usual way."""
