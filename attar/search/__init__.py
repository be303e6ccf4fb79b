"""Search: the student with the best objective among those that keep the promises."""
