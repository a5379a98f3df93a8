"""Sound in the lab: what goes in and out of a card, recorded outside its domain, and what of it was lost."""
