"""What happens around every call, one link a file: `order` names the links of both sides and says why."""
