"""The science: networks, masks and measurements. No Flask, no environment, no database."""
