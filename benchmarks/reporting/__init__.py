"""A page of tables and pictures made from results files."""
