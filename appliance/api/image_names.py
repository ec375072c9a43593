"""The column IMAGE of `docker ps` (moby daemon/list.go, refreshImage)."""

from appliance.container.container_record import ContainerRecord
from appliance.errors import InvalidParameter, NotFound
from appliance.image.store import ImageStore


class ImageNames:
    """Names of images as they resolve now. Make one for each answer: it looks each name up once."""

    def __init__(self, images: ImageStore) -> None:
        self._images = images
        self._ids: dict[str, str] = {}

    def shown(self, record: ContainerRecord) -> str:
        """The name by which the container was created, or its image's id if the name is another image's by now, or none's."""
        if record.image != record.image_id and self._id_of(record.image) == record.image_id:
            return record.image
        return record.image_id

    def _id_of(self, name: str) -> str:
        if name not in self._ids:
            try:
                self._ids[name] = self._images.get(name).id
            except (NotFound, InvalidParameter):
                self._ids[name] = ""
        return self._ids[name]
