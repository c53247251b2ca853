"""Schemas of a bundle's reports: what validate, bench and apply write, and what everybody who reads them gets."""
