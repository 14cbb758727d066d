"""Official annotation files to pandas tables, tables to (image, Faces)."""
