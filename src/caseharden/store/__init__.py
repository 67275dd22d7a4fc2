"""Store: cells, records, answers, weights and logs of steps, kept on the disk or in a database."""
