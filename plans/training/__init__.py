"""Recovery: what is trained after planning, and how it goes back into the plan."""
