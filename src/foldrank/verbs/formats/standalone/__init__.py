"""Programs that are copied into packages, to run where foldrank is not installed: none imports anything of it."""
