"""The figures of the workbook, a module a chapter: each function takes numbers and gives a figure. None needs torch."""
