"""What a person types: parses, calls, prints. No policy. Every command's module is imported when it is used."""
