"""Bills of materials in CycloneDX 1.6 JSON (https://cyclonedx.org/docs/1.6/json/): of a bundle and of an install."""
