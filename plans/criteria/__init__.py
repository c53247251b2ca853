"""How much a unit of a decoder matters: four criteria of one interface, for methods that choose what leaves."""
