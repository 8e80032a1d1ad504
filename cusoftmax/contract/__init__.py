"""What each operation must give: inputs to try it on, its truth, and the bound on its error."""
