"""Services: what programs hold to ask and to answer, and the threads and tasks that answer."""
