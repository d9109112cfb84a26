"""What a machine lacks for xfrmi, or puts in its way, each with the line that mends it. Looks only, changes nothing."""
