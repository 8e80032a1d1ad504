"""From the arrays of a call to a plan: check, fold into rows, choose the launches."""
