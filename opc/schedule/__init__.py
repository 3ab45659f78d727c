"""Scheduling by itself: tasks on in-order pipes and the dependences among them, without instructions or machines."""
