"""Storage: files of spools and ledgers, and the threads that write them."""
