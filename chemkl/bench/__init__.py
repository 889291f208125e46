"""Speed on this machine: `chemkl bench` compares chemkl with the usual way."""
