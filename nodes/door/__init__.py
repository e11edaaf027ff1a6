"""Admin socket of a process: who on this host may ask it, what it answers, and what it does when asked."""
