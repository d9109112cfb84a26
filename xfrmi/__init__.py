"""xfrmi: Linux xfrm interfaces (route-based IPsec ESP) in userspace."""

__version__ = "0.1.0"
