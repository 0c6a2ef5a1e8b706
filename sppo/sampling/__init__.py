"""Responses of a policy, and the engines that sample them."""
