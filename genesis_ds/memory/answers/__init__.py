"""What a user is told: the page and the table, what to change, and the largest that fits."""
