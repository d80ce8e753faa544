"""Results are records; tables and figures are functions of records."""
