"""The embedded world: instructions whose meaning is a program that can be run. Start at `instruct.world.operation`."""
