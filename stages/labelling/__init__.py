"""How a teacher's answers are asked for, stored in shards, and read again."""
