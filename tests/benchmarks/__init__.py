"""What an export costs, measured against other ways in the same run. Not collected by pytest: figures, no verdicts."""
