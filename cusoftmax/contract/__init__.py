"""The numerical contract: each operation's test inputs, exact results, and bound."""
