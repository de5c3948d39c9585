"""mpnb gets raw events out of Mixpanel and into a notebook."""
